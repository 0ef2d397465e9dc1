"""Speed: the measurements of `zeromask bench`, of the real product except where a stand-in is named.

A measurement must not know how the figures are compared or shown, and the means of measuring (timing, services,
emulation) must not know what is measured.
"""
