"""The endpoints: `users` with sync sessions, `me` with async ones, both on the one `Database`."""
