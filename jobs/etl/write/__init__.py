"""Encoded rows to shards, refused rows to the quarantine, and the account of both."""
