"""The client: all programs that run at a hospital, the only ones that ever read an image."""
