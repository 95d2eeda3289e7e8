"""Authentication. The mechanisms are the core's; what a program brings is a token provider (`oauth`)."""
