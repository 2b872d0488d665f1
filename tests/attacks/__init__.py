"""The attacks that once succeeded, one file each, written as an attacker would and run against the site's real code.

That one restart token after another repeats a training is attacked where the app is called as Flower calls it:
`tests/client/test_app.py`, "a stage whose answer was refused is worked out from its beginning".
"""
