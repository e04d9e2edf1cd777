"""The doors: HTTP and the command line. They translate; the rules live behind them."""
