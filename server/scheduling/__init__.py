"""The scheduler: which stage runs next, which stages wait, which weights stay, and what happens without a site."""
