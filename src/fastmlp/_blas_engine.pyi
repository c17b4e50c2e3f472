engine: object
