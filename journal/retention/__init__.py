"""History kept by promise: what is kept, thinned, folded and given up of a journal (docs/retention.md).

Works beside the writer and the readers, which know nothing of it: they see net segments in the place of others.
"""
