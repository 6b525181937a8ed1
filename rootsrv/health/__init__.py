"""Should this site attract traffic?"""
