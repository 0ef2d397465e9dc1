"""What is wrong with an installation, and with projects connected to it: the checks of `zeromask doctor`.

Nothing here changes Label Studio, Redis or a project. A mask is drawn by a process of the worker, which has the model.
"""
