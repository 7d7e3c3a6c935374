"""Tasks: how the config, text, network, objective and evaluation of each come together."""
