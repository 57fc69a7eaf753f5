"""What kshot is measured against: other libraries, and loops in the style of published code."""
