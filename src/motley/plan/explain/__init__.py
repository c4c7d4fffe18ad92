"""Why a plan is as it is: tables, reasons, what lost, what other chips or money would bring."""
