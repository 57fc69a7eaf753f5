"""What the server keeps: tables, and functions over a connection to them."""
