"""What the executor is held against: the manual, in exact arithmetic, sharing nothing with the engines."""
