"""The log engine under time series and event sequences: hot rows and packed chunks."""
