"""Errors of one slice file, DICOM or JPEG."""


class DicomError(Exception):
    """A slice file that cannot be used; `reason` is one line for the quarantine list."""

    @property
    def reason(self) -> str:
        """The message."""
        return str(self)


class IncompleteHeaderError(DicomError):
    """The given bytes end before the header does, or cannot be parsed; reading more of the file may help."""
