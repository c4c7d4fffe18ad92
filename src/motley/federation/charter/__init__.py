"""What the parties have agreed on, who belongs to them, and what the objects of the log say."""
