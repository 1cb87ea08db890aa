"""What can be seen from outside: the exposition of metrics, events (control's side)."""
