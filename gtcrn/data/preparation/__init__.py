"""A corpus made fit for training: parallel, restartable jobs from one folder into another. See `jobs`."""
