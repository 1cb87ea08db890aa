"""C declarations, which only compiled code imports."""
