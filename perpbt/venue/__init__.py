"""What a venue charges and requires: its numbers, its tier tables, and the tables its file may hold."""

from perpbt.venue.model import PACKAGED, Dated, Source, Tier, Venue, list_venues, load_venue

__all__ = ["PACKAGED", "Dated", "Source", "Tier", "Venue", "list_venues", "load_venue"]
