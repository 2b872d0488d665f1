"""Faults that strike at counted places, under a virtual clock: a seed gives the same history, to the last message.

What runs is the real coordinator (`run_study`: scheduler, channels, discovery, ledger, results), the real client app
(approval, answering once, kept stages, the egress filter) and what they call, in one process and one thread. Put in
their places are: time, threads and queues (`kernel`), Flower's engine (`engine`), the calls by which files are written
and removed (`disk`), and what happens between an image and a network's weights and scores (`hospital`).
"""
