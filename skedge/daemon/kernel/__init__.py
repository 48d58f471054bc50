"""The kernel of this host as the controller uses it: drivers put together, one worker thread, the change of engine."""
