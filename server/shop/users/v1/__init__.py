"""The generated stubs of `shop.users.v1`."""
