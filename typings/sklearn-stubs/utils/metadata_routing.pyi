UNUSED: str

class MethodMetadataRequest:
    def add_request(self, *, param: str, alias: bool | str | None) -> MethodMetadataRequest: ...

class MetadataRequest:
    fit: MethodMetadataRequest
    score: MethodMetadataRequest
    def __init__(self, owner: object) -> None: ...
