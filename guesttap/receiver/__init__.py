"""The receiver: the ingest process of the appliance, which takes the taps' change streams into journals.

`python -m guesttap.receiver --config FILE`. Per connection one thread owns the channel (receives, checks) and
one writes (appends what is queued, commits once, acknowledges). Never acknowledges what is not durable.
"""
