"""One application per peer: its library set up as its documentation says, with the endpoints that all share."""
