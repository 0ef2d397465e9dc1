"""What the product costs: measurements for `zeromask bench`, on stand-ins only where one is named."""
