"""What runs inside a guest: standard library and pyzmq only, on Python 3.6 and later.

The image builder copies this package to ``vsandbox_guest`` in the guest, so its modules import
each other relatively and nothing else of the project.
"""
