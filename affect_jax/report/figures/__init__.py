"""Drawing only: each function turns computed numbers into one matplotlib `Figure`."""
