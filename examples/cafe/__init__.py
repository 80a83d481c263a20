"""A small café on one database.

The café is the database, and the window is the session: a guest (a request) steps up to the window, asks for
what they want, and the window closes behind them, with everything settled, before the next guest is served.

Read the files in this order: settings, database, models, dependencies, routers, main; then script, which does
without the web server.
"""
