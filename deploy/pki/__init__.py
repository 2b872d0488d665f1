"""Make keys, certificates and the files exchanged at enrolment."""
