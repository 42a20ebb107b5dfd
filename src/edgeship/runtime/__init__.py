"""The vehicle's side: bundle → predictions, and the time of each part of a frame."""
