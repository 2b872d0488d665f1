"""Make keys, certificates and the files that are exchanged at enrolment."""
