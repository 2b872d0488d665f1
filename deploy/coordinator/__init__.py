"""Run the coordinator's side: enrolment, programs, and studies on separate hospitals."""
