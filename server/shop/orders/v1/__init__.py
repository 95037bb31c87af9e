"""The generated stubs of `shop.orders.v1`."""
