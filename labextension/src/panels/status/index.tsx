import { TextItem } from '@jupyterlab/statusbar';
import type { ITranslator } from '@jupyterlab/translation';
import { VDomRenderer } from '@jupyterlab/ui-components';
import React from 'react';
import type { ISandboxModel } from '../../tokens';
import { describe } from './text';

/**
 * The status-bar item that names the machine behind the notebook in front.
 */
export class StatusItem extends VDomRenderer<ISandboxModel> {
  constructor(model: ISandboxModel, translator: ITranslator) {
    super(model);
    this._translator = translator;
    this.addClass('jp-VSandbox-status');
  }

  protected override render(): React.ReactElement | null {
    const text = describe(
      this.model.status,
      this._translator.load('jupyter_vsandbox')
    );
    return (
      text && (
        <TextItem
          role="status"
          aria-label={text.label}
          source={text.source}
          title={text.hint}
        />
      )
    );
  }

  private readonly _translator: ITranslator;
}
