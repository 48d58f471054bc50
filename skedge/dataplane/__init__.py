"""One driver per kind of kernel object; each touches only objects that are ours."""
