"""`make chaos`: faults in a lab under load, and what clients saw of each."""
