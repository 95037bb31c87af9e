"""What a method says of itself: its options, its descriptor, and the policy it gets."""
