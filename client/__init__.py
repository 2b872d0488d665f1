"""The client: all programs at a hospital, the only programs that ever read an image."""
