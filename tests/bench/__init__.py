"""What the software costs, measured: each module a subject, `python -m tests.bench` all but the long one (`scale`)."""
