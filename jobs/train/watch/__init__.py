"""What shows how far a training is: progress, curves, gauges."""
