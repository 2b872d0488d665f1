"""The messages between the coordinator and a site, their form on the wire, and refusals."""
