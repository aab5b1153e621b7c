"""Every hook on a model: recording what a Q-Former attends to, and replacing what it hands on."""
