"""The vocabulary that every stage speaks: values, ports, errors, time and ids. Pure."""
