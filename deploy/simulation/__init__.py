"""Run studies on hospitals whose files all lie on this machine."""
