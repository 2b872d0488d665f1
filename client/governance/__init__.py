"""The hospital's decisions (approvals) and their enforcement: commitments, disclosure, egress filter and audit logs."""
