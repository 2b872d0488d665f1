"""What the hospital decides (approvals) and what enforces it: commitments, disclosure, egress filter and audit logs."""
