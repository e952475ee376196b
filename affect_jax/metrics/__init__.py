"""Every metric that the project reports, computed here only."""
