"""Run what belongs to the coordinator: enrolment, its programs, studies on hospitals that are really apart."""
