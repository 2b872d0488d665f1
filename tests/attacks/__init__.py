"""The attacks that once succeeded, one file each, written as an attacker would and run against the site's real code."""
