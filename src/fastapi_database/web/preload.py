"""x"""
def preload(value, field):
    return None
